"""An export on the Hub in one commit."""
