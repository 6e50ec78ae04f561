"""One module a verb: it declares its options (`add_arguments`), calls the domain (`run`), and formats the answer."""
