"""What the commands do, without the command line: each gives its exit code, or raises what a user can meet."""
