package manifest

// Annotations, and a label, by which manifests say what no field of Knative says.
// Emits and Outputs hold event types, separated by commas.
const (
	// Emits, on a Service or a Deployment: the types that the function makes.
	Emits = "telemesh.dev/emits"
	// Attributes, on a Service, a Deployment or a Broker: the extension attributes that
	// its events may have, besides those that the events of any function may have. A Broker's are
	// of its Outputs. On a Broker without, nothing is known of what comes from outside.
	Attributes = "telemesh.dev/attributes"
	// Outputs, on a Broker: the types that are output ports of its domain's
	// products. Nobody here has to read them, and they may come from outside.
	Outputs = "telemesh.dev/outputs"
	// Keeps, on a Trigger, is "everything": its subscriber keeps whatever comes and
	// makes nothing of it, so that what it alone reads is read by nobody. Or it is
	// "nothing": what cannot be delivered is not worth keeping, as a tick is not
	// that another one follows.
	Keeps = "telemesh.dev/keeps"
	// Ends, on a Trigger, says why a circle of events that goes through it comes to
	// an end.
	Ends = "telemesh.dev/ends"
	// Seldom, on a Trigger, says why what it takes is a small part of the events of its
	// types: its subscriber is not woken ahead of them, and starts when one is there.
	Seldom = "telemesh.dev/seldom"
	// Product, a label of a ServiceAccount: the product that its functions are where
	// the warehouse is.
	Product = "telemesh.dev/product"
)
