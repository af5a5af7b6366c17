"""What correctness bits say: pair statistics, and how sure one can be."""
