"""Students in hosts, as models of transformers: these files travel with such a student, as `hub.modeling` does with a bare one."""
