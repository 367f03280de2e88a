"""Operator definitions: what is computed, without a word of any ISA.

Nothing is imported here, so that reading a workload needs no TVM.
"""
