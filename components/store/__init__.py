"""Files that are either complete or not there: fingerprints, manifests, leases, sample tables."""
