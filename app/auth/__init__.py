"""Who may do what: bearer tokens with scopes."""
