"""`fastdreamer doctor`: what this machine has, what is wrong with it, and the line that mends it.

Nothing here imports torch or any other library into the process of the command: whatever must be imported to be judged
is imported in a process of its own (`probe`), which may fail, crash or hang.
"""
