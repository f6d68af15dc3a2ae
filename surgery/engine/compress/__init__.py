"""Make a whole model smaller in a form that its stock class loads."""
