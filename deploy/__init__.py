"""Keys, certificates, start-up kits and service files of a federation of separate machines."""
