"""Media in and out: decoding under limits, mel features, patches, WAV. No model's weights and no packets here."""
