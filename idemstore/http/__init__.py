"""HTTP: one pure policy module decides, thin adapters carry it out."""
