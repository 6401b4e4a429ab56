"""How strongly single cells respond: strengths fitted by EM, and cells moved by them."""
