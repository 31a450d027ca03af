"""The pin of llama.cpp and the recipe to build, test and find it. Standard library only."""
