"""Tables and figures out of error files: the room that knows what a paper shows, and never imports torch."""
