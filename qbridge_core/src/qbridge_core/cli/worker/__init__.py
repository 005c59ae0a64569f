"""What ``qbridge worker`` runs: targets, in this process or in others."""
