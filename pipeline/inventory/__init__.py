"""The work of the step `inventory`: read records, find and open their images, and join both."""
