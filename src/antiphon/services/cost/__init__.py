"""Cost of one project: metering, charges, prices, forecasts, reviews and exports."""
