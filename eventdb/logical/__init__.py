"""What a query means: bound expressions, the plan, and the rules that improve it. Nothing here says how."""
