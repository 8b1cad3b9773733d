"""Models as files for other runtimes: ONNX Runtime and ExecuTorch. Every file is run and compared with the model it came from."""
