"""The batch path over tables: every row through serving's answer(), durable and resumable."""
