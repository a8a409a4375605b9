"""What a task is and how an answer is judged; what is right stands in the exercises' topics."""
