"""From a shop's tables to batches: tables -> cleaning -> events -> split -> encoders -> store -> batches."""
