"""What a person looks at: listings, tables, pages."""
