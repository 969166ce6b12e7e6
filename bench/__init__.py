"""Side-by-side measurements of build and seed. Not part of what ships."""
