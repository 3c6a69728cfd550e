"""The conductor wired for one project: what schedules see, what they order, and what people say to them."""
