"""How operators are computed: one module per ISA, named by the target's record."""
