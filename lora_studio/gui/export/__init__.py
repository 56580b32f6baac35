"""The Export dialog: what can be exported and how, progress, the certificate and what to do with the result."""
