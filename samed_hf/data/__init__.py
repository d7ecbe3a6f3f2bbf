"""Slices and volumes: the Synapse layout, its preparation from raw scans, the synthetic phantom."""
