"""The story of learning: fine-tune, release, learn from outcomes, release again, roll back."""
