"""Pages for people: server-rendered, each with a `.json` twin made of the same data."""
