"""What is measured, beside what is built."""
