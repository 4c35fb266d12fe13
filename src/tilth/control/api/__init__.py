"""The control API: resources under `/v1`, every request through one desk."""
