"""Does focal loss flatten the loss surface, and does that calibrate? The study, and its page."""
