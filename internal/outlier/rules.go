package outlier

import (
	"fmt"
	"time"

	"sigs.k8s.io/yaml"
)

// Version of the rules. What a later one says takes the place of what an earlier one
// said: count up with every change of a rule, of a constant here, or of noise and
// stuck in the metric dictionary.
const Version = 1

// Rules are those of the metrics, by name.
type Rules map[string]Metric

// ReadRules reads what the metric dictionary of iot-telemetry says of what is to be
// expected of its metrics. What else it says is read by package device.
func ReadRules(dictionary []byte) (Rules, error) {
	var file struct {
		Metrics []struct {
			Metric string  `json:"metric"`
			Noise  float64 `json:"noise"`
			Stuck  string  `json:"stuck"`
		} `json:"metrics"`
	}
	if err := yaml.Unmarshal(dictionary, &file); err != nil {
		return nil, fmt.Errorf("read metric dictionary: %w", err)
	}
	rules := Rules{}
	for _, m := range file.Metrics {
		metric := Metric{Noise: m.Noise}
		if m.Stuck != "" {
			var err error
			if metric.Stuck, err = time.ParseDuration(m.Stuck); err != nil {
				return nil, fmt.Errorf("read metric dictionary: metric %s: stuck: %w", m.Metric, err)
			}
		}
		if metric.Noise < 0 || metric.Stuck < 0 {
			return nil, fmt.Errorf("read metric dictionary: metric %s: noise and stuck are at least 0", m.Metric)
		}
		if metric != (Metric{}) {
			rules[m.Metric] = metric
		}
	}
	return rules, nil
}

// Window is the longest of the metrics' windows.
func (r Rules) Window() (window time.Duration) {
	for _, m := range r {
		window = max(window, m.Window())
	}
	return window
}
