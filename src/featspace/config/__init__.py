"""params.yaml as frozen models, validated."""
