"""Edge: the Hub as a place to publish on. The model card, and an upload that is whole or has not happened."""
