"""The chapters of an audit's report, in the order of its pages."""
