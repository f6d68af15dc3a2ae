"""What attention sees on real input, as second moments of d_head × d_head numbers a head."""
