"""Teachers: what gives evidence for queries about pictures. A new one is one module and one row of the table."""
