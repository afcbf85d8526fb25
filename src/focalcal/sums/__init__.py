"""What a pass over rows adds up: sums that merge, whatever order and place they were made in."""
