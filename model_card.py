RESEARCH_USE = "Research use only: not a medical device, not for diagnosis or treatment."
