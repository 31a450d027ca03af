"""Edge to Hugging Face: reference models, processors, calibration data, activations."""
