"""What runs in a Lambda function or a local process: listing and copying, on the standard library alone."""
