"""What is stored because of other servers."""
