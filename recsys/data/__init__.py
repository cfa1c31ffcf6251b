"""From a shop's tables to batches: tables -> cleaning -> split -> encoders -> store -> batches."""
