"""What a person looks at after a run: pictures of the cases, learning curves, and the page that holds them."""
