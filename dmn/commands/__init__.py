"""Commands beside training's: each a module with a `main(args)`."""
