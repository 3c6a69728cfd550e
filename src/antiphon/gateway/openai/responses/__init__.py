"""OpenAI's Responses API over the same ``answer()`` as chat completions: another form of body, answer and stream."""
