"""What the commands do: reads files, calls the other rooms, writes files."""
