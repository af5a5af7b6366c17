"""What a store holds, to look at: tables become figures, figures become pages."""
