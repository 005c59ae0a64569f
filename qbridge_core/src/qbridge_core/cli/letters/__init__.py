"""Dead letters as the command line has them: found, filtered, grouped, told of, and written as JSON."""
