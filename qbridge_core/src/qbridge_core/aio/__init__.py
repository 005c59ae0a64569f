"""For event loops: sends messages from coroutines, through clients whose calls would block a loop."""
