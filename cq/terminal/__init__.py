"""What the commands for people share: which tasks are meant, what is shown of them, and how it fits a terminal.

What a task holds is foreign text: it reaches a terminal only through `TerminalCommand`, which escapes what could steer one.
"""
